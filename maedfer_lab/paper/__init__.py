"""The paper's numbers as data, each with its source, and the ledger of claims."""
