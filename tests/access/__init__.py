"""Who asks: keys in files that change and break, and issuers of tokens that fail and lie."""
