"""A turn and a responder in, a reply out. No transport, no framework, no clock of its own."""
