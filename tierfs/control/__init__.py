"""The control plane: main loop and control socket."""
