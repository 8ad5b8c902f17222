"""One module a paper: facts, method factory, claim."""
