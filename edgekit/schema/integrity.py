"""Is a bundle directory exactly what its manifest lists?

Asked before a bundle is verified or pushed. It needs neither torch nor a runtime: names,
sizes, SHA-256 and the manifest's own consistency.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
import stat
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

from edgekit.errors import InputError
from edgekit.progress import Progress, ProgressEvent, silent
from edgekit.schema import codec
from edgekit.schema.bundle import MANIFEST, Bundle, BundleFile, FileRole

#: Files that desktops drop into any folder they show; they are neither listed nor pushed.
DESKTOP_LITTER = frozenset({".DS_Store", "Thumbs.db", "desktop.ini"})

#: Read size while hashing: large enough that Python's share of the time vanishes.
CHUNK_BYTES = 1 << 20

#: More findings than this help nobody; the rest is counted.
MAX_FINDINGS_SHOWN = 20

_SHA256 = re.compile(r"[0-9a-f]{64}")
#: What some host or device cannot have in a file's name, or reads as something else than a name.
_FORBIDDEN_IN_PATHS = re.compile(r'[\x00-\x1f\\:*?"<>|]')


def check_bundle(directory: Path, *, progress: Progress = silent) -> Bundle:
    """Read the manifest of the bundle in ``directory`` and compare every file with it.

    Listed paths must lie inside the folder and lead through no symbolic link; sizes and SHA-256
    must be those of the manifest; nothing else may lie in the folder; the manifest must not
    contradict itself.

    Raises:
        InputError: no bundle, a broken manifest, or files that differ (all findings are in ``detail``).
        UnsupportedError: the manifest was written by a newer edgekit.
    """
    bundle = read_manifest(directory)
    findings = [*contradictions(bundle), *_file_findings(directory, bundle.files, progress)]
    if findings:
        shown = findings[:MAX_FINDINGS_SHOWN]
        if len(findings) > len(shown):
            shown.append(f"and {len(findings) - len(shown)} more")
        raise InputError(
            f"check the bundle in {directory}: it is not what its {MANIFEST} says",
            detail="\n".join(shown),
            hint="the bundle was edited, cut short or damaged; export it again or copy it again",
        )
    return bundle


def read_manifest(directory: Path) -> Bundle:
    """The manifest of the bundle in ``directory``, without a look at its other files (errors as check_bundle)."""
    manifest = directory / MANIFEST
    try:
        mode = manifest.lstat().st_mode
        size = manifest.lstat().st_size
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(
            f"read the bundle in {directory}: no {MANIFEST} ({reason})",
            hint="name a directory that `edgekit export` wrote",
        ) from error
    if not stat.S_ISREG(mode):
        raise InputError(f"read the bundle in {directory}: {MANIFEST} is not a regular file")
    if size > codec.MAX_DOCUMENT_BYTES:
        raise InputError(f"read the bundle in {directory}: {MANIFEST} has {size} bytes, more than any manifest")
    return codec.read(manifest, Bundle)


def contradictions(bundle: Bundle) -> list[str]:
    """What the manifest says that cannot be true together, one sentence each; empty when it is sound."""
    return list(_contradictions(bundle))


def sha256_file(path: Path, tell: Callable[[int], None] | None = None) -> str:
    """SHA-256 of a file's content as hex; ``tell`` hears the bytes of each chunk."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(CHUNK_BYTES):
            digest.update(chunk)
            if tell is not None:
                tell(len(chunk))
    return digest.hexdigest()


def describe_file(directory: Path, path: str, role: FileRole) -> BundleFile:
    """The manifest's entry for the file at ``path`` (relative, POSIX) of a bundle being written."""
    file = directory / path
    return BundleFile(role=role, path=path, bytes=file.stat().st_size, sha256=sha256_file(file))


def path_fault(path: str) -> str | None:
    """Why ``path`` may not stand in a manifest, or None when it may."""
    if not path or len(path) > 1024:
        return "is empty or too long"
    if _FORBIDDEN_IN_PATHS.search(path):
        return "has a character that is no part of a portable file name"
    try:
        path.encode()
    except UnicodeEncodeError:
        return "is not valid Unicode"
    if path.startswith("/"):
        return "is absolute"
    parts = path.split("/")
    if ".." in parts:
        return "leads out of the bundle"
    if "" in parts or "." in parts or any(part != part.rstrip(" .") for part in parts):
        return "is not in its plain form"
    if path == MANIFEST:
        return "is the manifest itself"
    return None


def _file_findings(directory: Path, files: list[BundleFile], progress: Progress) -> Iterator[str]:
    listed: set[str] = set()
    sound: list[BundleFile] = []
    for entry in files:
        if fault := path_fault(entry.path):
            yield f"{entry.path!r} {fault}"
        elif entry.path.casefold() in listed:
            yield f"{entry.path} is listed twice"
        else:
            sound.append(entry)
        listed.add(entry.path.casefold())

    present = dict(_walk(directory))
    names = {entry.path for entry in sound}
    yield from (f"{path!r} is not listed in {MANIFEST}" for path in sorted(present.keys() - names - {MANIFEST}))

    total = sum(max(entry.bytes, 0) for entry in sound)
    done = 0

    def tell(count: int) -> None:
        nonlocal done
        done += count
        progress(ProgressEvent("check files", done, total, "bytes", directory.name))

    for entry in sound:
        found = present.get(entry.path)
        if found is None:
            yield f"{entry.path} is missing"
        elif not stat.S_ISREG(found.st_mode):
            yield f"{entry.path} is a symbolic link or no regular file"
        elif found.st_size != entry.bytes:
            yield f"{entry.path} has {found.st_size} bytes instead of {entry.bytes}"
        else:
            try:
                digest = sha256_file(directory / entry.path, tell)
            except OSError as error:
                yield f"{entry.path} cannot be read: {error.strerror or error}"
                continue
            if digest != entry.sha256:
                yield f"{entry.path} has another content: SHA-256 {digest[:12]}… instead of {entry.sha256[:12]}…"


def _walk(directory: Path) -> Iterator[tuple[str, os.stat_result]]:
    """Everything below ``directory`` but folders, as (relative POSIX path, lstat); links are not followed."""
    pending = [PurePosixPath()]
    while pending:
        folder = pending.pop()
        try:
            with os.scandir(directory / folder) as entries:
                found = [(entry.name, entry.stat(follow_symlinks=False)) for entry in entries]
        except OSError as error:
            raise InputError(f"list {directory / folder}: {error.strerror or error}") from error
        for name, status in sorted(found, key=lambda pair: pair[0]):
            if stat.S_ISDIR(status.st_mode):
                pending.append(folder / name)
            elif name not in DESKTOP_LITTER:
                yield str(folder / name), status


def _contradictions(bundle: Bundle) -> Iterator[str]:
    vocab = bundle.architecture.vocab
    for entry in bundle.files:
        if not _SHA256.fullmatch(entry.sha256):
            yield f"{entry.path!r}: its SHA-256 is not one"
        if entry.bytes < 0:
            yield f"{entry.path!r}: a negative size"
    if sum(entry.role == "model" for entry in bundle.files) != 1:
        yield "files: exactly one must have the role model"
    if bundle.gate.passed != all(check.passed for check in bundle.gate.checks) or not bundle.gate.checks:
        yield "gate: the verdict does not follow from its checks"
    if bundle.tokenizer is not None and not any(entry.role == "tokenizer" for entry in bundle.files):
        yield "tokenizer: described, but no file has the role tokenizer"
    if bundle.runtime.context_length < 1 or vocab < 1:
        yield "runtime: no context, or no vocabulary"
    yield from _interface_contradictions(bundle)
    yield from _golden_contradictions(bundle)


def _interface_contradictions(bundle: Bundle) -> Iterator[str]:
    if bundle.runtime.name != "onnxruntime":
        if bundle.runtime.onnx is not None or (bundle.runtime.planned_bytes or 0) < bundle.runtime.kv_cache_bytes:
            yield "runtime: an ONNX interface, or less planned memory than its cache needs"
        return
    onnx = bundle.runtime.onnx
    if onnx is None:
        yield "runtime: an onnxruntime bundle without its interface"
        return
    if not len(onnx.past) == len(onnx.present) == len(onnx.cache_shape) > 0:
        yield "runtime: past, present and cache_shape differ in length, or are empty"
    names = [onnx.tokens, onnx.seqlens_k, onnx.total_sequence_length, *onnx.past]
    if len(set(names)) != len(names) or len({*onnx.present, onnx.logits}) != len(onnx.present) + 1:
        yield "runtime: two inputs or two outputs share a name"
    architecture = bundle.architecture
    expected = [1, architecture.kv_heads, bundle.runtime.context_length, architecture.head_dim]
    if any(shape != expected for shape in onnx.cache_shape):
        yield f"runtime: a cache shape is not {expected}"
    element = 2 if onnx.cache_dtype == "float16" else 4
    if bundle.runtime.kv_cache_bytes != len(onnx.past) * math.prod(expected) * element:
        yield "runtime: kv_cache_bytes is not what the cache shapes add up to"


def _golden_contradictions(bundle: Bundle) -> Iterator[str]:
    golden, vocab = bundle.golden, bundle.architecture.vocab
    steps = len(golden.tokens)
    if not golden.prompt or not steps or not golden.logit_ids:
        yield "golden: no prompt, no tokens or no logits"
    if any(not 0 <= token < vocab for token in (*golden.prompt, *golden.tokens, *golden.logit_ids)):
        yield "golden: a token outside the vocabulary"
    if len(golden.logits) != steps or len(golden.margins) != steps:
        yield "golden: tokens, logits and margins differ in length"
    if any(len(row) != len(golden.logit_ids) for row in golden.logits):
        yield "golden: a row of logits differs from logit_ids in length"
    if not golden.tolerance > 0:
        yield "golden: no positive tolerance"
    if len(golden.prompt) + steps > bundle.runtime.context_length:
        yield "golden: longer than the context"
