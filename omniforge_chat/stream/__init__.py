"""One open stream, and what all streams of an app share."""
