"""A client for OpenAI-compatible endpoints: requests, rate limit, response cache, usage and secrets."""
