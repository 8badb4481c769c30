"""What a model costs before it is exported: every tensor, from the configuration alone.

``families`` turns a configuration into a :class:`~edgekit.analysis.accounting.decoder.Decoder`, the list of its
tensors; ``stored`` says what those weigh in a file under a recipe; ``memory`` what runs beside them.
"""
