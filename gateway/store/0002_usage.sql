-- What the upstream said that a call used; NULL where it said nothing.

ALTER TABLE calls ADD COLUMN prompt_tokens INTEGER;
ALTER TABLE calls ADD COLUMN completion_tokens INTEGER;
ALTER TABLE calls ADD COLUMN cached_tokens INTEGER;
