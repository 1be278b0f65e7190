"""A distributed key-value store for parameters: tables of rows that many servers share.

docs/KV.md has the protocol, the formats and what is guaranteed.
"""
