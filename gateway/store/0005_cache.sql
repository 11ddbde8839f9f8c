-- Whether an account's calls use the cache; NULL: as the front has it.

ALTER TABLE accounts ADD COLUMN cache INTEGER;
