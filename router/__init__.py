"""Who answers a role: registry, resolution, provider adapters, chat surfaces."""
