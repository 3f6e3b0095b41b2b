"""What every stage stands on: stage, store, fingerprint, lease, journal, tracking."""
