"""Published data as per-request events: OpenRouter's daily ranking and Azure's traces."""
