"""Caption metrics as pure functions of tokens: per item and for the corpus, equal to the reference tools."""
