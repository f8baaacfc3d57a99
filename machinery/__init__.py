"""The shared kernel: the object model, the errors and the client kit; the only thing components share."""
