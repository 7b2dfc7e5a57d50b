"""One open stream, and the state that all streams of an app share.

`http` opens streams; `app` drains them. transitions.py and state.py are pure: start there.
"""
