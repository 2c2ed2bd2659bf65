"""One thin file a command: check the inputs, call the core, present the result."""
