"""Training data by doing: experts run the real environment, and only what worked is kept.

A :class:`~autogpt.agent.experts.expert.Task` is a goal (or a conversation) with the calls that an
expert would make. ``expert`` plays them through the same loop, tools and grammar that serve users,
keeps the episodes whose checks pass, and writes token ids with a mask of what the model itself
decides. One module per family makes tasks: tables, words (arithmetic), files, workflows, chat, stubs.
"""
