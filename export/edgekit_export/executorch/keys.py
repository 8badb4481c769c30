"""What a program calls its data: keys of delegates, and of tables that are named for the gate alone."""

#: Ends the key of a matrix's scales.
SCALES = ".scales"
#: Begins the key of a constant of the computation.
LITERAL = "constant."
#: Begins the key of what is looked up by position.
TABLE = "input."
#: Ends the key of an embedding as its kernel reads it: 4-bit values with the even column high, float32 scales.
EMBEDDING = "@embedding"
#: Stands between a weight and the first of its rows that the program holds.
ROWS = "@rows"
