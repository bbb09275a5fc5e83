"""Hypothesis without a deadline: the first example of a kernel compiles it, which takes seconds and says nothing about the code."""

import hypothesis

hypothesis.settings.register_profile("gapless", deadline=None)
hypothesis.settings.load_profile("gapless")
