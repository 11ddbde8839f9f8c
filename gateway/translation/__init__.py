"""The language of an answer's text (contract, section 2): what is translated, by whom, and how it comes back whole."""
