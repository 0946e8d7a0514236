"""Tables of databases, and what queries give: SQLite, PostgreSQL, DuckDB."""
