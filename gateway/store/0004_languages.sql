-- The language of answers: what became of it, what translating cost, and whose prompts are translated.

ALTER TABLE calls ADD COLUMN translate_status TEXT NOT NULL DEFAULT ''; -- empty: no language was asked for
ALTER TABLE calls ADD COLUMN translation_micros INTEGER NOT NULL DEFAULT 0; -- charged or not

ALTER TABLE accounts ADD COLUMN lang_prompt INTEGER NOT NULL DEFAULT 0; -- prompts of image methods into English
