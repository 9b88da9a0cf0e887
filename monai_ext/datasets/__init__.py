"""Raw folders become a checked list of cases."""
