"""What the stores of conversations and those of replies have in common.

`conversations` and `replay` do not know each other; both may use this room.
"""
