"""Ends before it says HELLO."""

print("loading")
import no_such_module
