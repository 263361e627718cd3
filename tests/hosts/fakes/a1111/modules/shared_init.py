from modules import shared


def initialize():
    """What a host does before it loads extensions."""
    from modules import devices, options, shared_options, shared_state, styles

    shared.options_templates = shared_options.options_templates
    shared.restricted_opts = shared_options.restricted_opts
    shared.opts = options.Options(dict(shared.options_templates), shared.restricted_opts)
    shared.device = devices.device
    shared.state = shared_state.State()
    shared.prompt_styles = styles.StyleDatabase(["styles.csv"])
