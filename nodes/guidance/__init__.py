"""The nodes that guide, record and judge."""
