"""A simulator of LLM gateways: users, sessions, seasons, drifting shares, faults and their truth.

Everything it sends says ``source: synthetic``. The same arguments give the same bytes.
"""
