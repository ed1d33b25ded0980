"""Chat templates, for tiny models."""

import tiny

# LLaVA-1.5's: images first, whatever the message has.
LLAVA = (
    "{% for message in messages %}{% if message['role'] != 'system' %}{{ message['role'].upper() + ': '}}{% endif %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}{% endfor %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}{{ content['text'] + ' '}}"
    "{% endfor %}{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
# Qwen2-VL's, with the image's marker of the model.
CHATML = (
    "{% for message in messages %}{{ ' <|im_start|> ' + message['role'] + ' ' }}{% if message['content'] is string %}"
    "{{ message['content'] }}{% else %}{% for content in message['content'] %}{% if content['type'] == 'image' %}"
    "{{ 'MARK' }}{% else %}{{ content['text'] }}{% endif %}{% endfor %}{% endif %}{{ ' <|im_end|> ' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ ' <|im_start|> assistant' }}{% endif %}"
)


def chatting(name, template):
    """The tiny model of that name with a chat template."""
    model = tiny.model(name)
    own = model.kind.marker(model)
    model.processor.chat_template = template.replace("MARK", own).replace("<image>", own)
    return model
