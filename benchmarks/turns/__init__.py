"""The parts of ``agent_turns.py``: transcripts, the engines that are compared, the gate, the report."""
