"""From a position of training to the rows that stand there, by arithmetic and mapped files."""
