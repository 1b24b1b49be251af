"""When the adaptive arm ends early: the rule, and the bound of what is left to gain."""
