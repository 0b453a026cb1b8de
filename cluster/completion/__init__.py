"""What a shell offers after TAB, for ``eyespot completion bash``, zsh and fish."""
