"""Rows → prompts: templates over columns, messages and parameters that rows bring themselves."""
