"""The way to a model: a responder for each wire format, and what they share."""
