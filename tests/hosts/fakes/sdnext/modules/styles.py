from types import SimpleNamespace


def apply_styles_to_prompt(prompt, styles):
    for style in styles:
        prompt = style.replace("{prompt}", prompt) if "{prompt}" in style else ", ".join(filter(None, (prompt, style)))
    return prompt


class StyleDatabase:
    def __init__(self, opts):
        self.styles = {"Noir": SimpleNamespace(prompt="{prompt}, film noir", negative_prompt="colour"),
                       "Snow": SimpleNamespace(prompt="snow", negative_prompt="")}

    def apply_styles_to_prompt(self, prompt, styles, wildcards: bool = True):
        assert isinstance(styles, list), "anything else is logged and ignored"
        return apply_styles_to_prompt(prompt, [self.styles[name].prompt for name in styles if name in self.styles])

    def apply_negative_styles_to_prompt(self, prompt, styles, wildcards: bool = True):
        assert isinstance(styles, list), "anything else is logged and ignored"
        wanted = [self.styles[name].negative_prompt for name in styles if name in self.styles]
        return apply_styles_to_prompt(prompt, wanted)
