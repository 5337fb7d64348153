"""What every node needs: sockets, schema, safe paths."""
