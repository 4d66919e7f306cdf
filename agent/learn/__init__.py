"""Learning from runs: collect, practise, train, gate, promote."""
