"""From the text of an answer to an expression tree, words and a unit."""
