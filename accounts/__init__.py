"""Who may do what: users, roles, tokens, the permission function, and the error every app builds on."""
