"""The network: loading weights, the forward pass, and the precision this machine computes in."""
