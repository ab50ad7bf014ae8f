"""What ends a step of learning."""


class LearnerError(ValueError):
    """The learner cannot go on: nothing to replay, or a state that does not fit."""


class NotFiniteError(ValueError):
    """A loss, a gradient or a weight is no number any more: the state that it is of is useless."""
