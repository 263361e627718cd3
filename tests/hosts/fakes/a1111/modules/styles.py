def apply_styles_to_prompt(prompt, styles):
    for style in styles:
        prompt = style.replace("{prompt}", prompt) if "{prompt}" in style else ", ".join(filter(None, (prompt, style)))
    return prompt


class StyleDatabase:
    def __init__(self, paths):
        self.styles = {"Noir": ("Noir", "{prompt}, film noir", "colour"), "Snow": ("Snow", "snow", "")}

    def apply_styles_to_prompt(self, prompt, styles):
        return apply_styles_to_prompt(prompt, [self.styles.get(name, ("", "", ""))[1] for name in styles])

    def apply_negative_styles_to_prompt(self, prompt, styles):
        return apply_styles_to_prompt(prompt, [self.styles.get(name, ("", "", ""))[2] for name in styles])
