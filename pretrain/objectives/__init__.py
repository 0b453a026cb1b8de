"""One file per self-supervised method. A method imports no method, no engine and no loop; recipes name it."""
