"""The Flink job from outside: settings, submission, supervision, state, accounts."""
