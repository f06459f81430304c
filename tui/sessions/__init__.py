"""Conversations that outlive the app: a SQLite file, searched, exported and imported. Knows no screen."""
