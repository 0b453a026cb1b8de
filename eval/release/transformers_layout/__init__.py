"""A release's encoder as transformers has it: ``AutoModel.from_pretrained(FOLDER)``, where its class is the same."""
