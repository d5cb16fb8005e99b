"""What the course foresees: the base of all its own error classes, so that the shell can tell them from mistakes."""


class CourseError(Exception):
    """Something foreseen went wrong; the message is one line that says what, and what is allowed or what helps."""


class InputError(CourseError, ValueError):
    """A value that makes no sense here; the message names it, and what is allowed."""
