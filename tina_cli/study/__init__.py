"""The paper's study: what personalised networks made from words are worth, beside everything else that would have done."""
