"""The engine behind a server of OpenAI's protocol."""
