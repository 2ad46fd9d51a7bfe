"""Writes cases.json beside it: what transformers makes of templates and conversations, and of
single constructs. The templates are chorus' own. Deterministic.

    pip install transformers==5.0.0 jinja2==3.1.6
    python generate.py
"""

import copy
import datetime
import json
import random

import jinja2
import transformers
import transformers.utils.chat_template_utils as utils

assert transformers.__version__ == "5.0.0" and jinja2.__version__ == "3.1.6"


class Clock(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return cls(2025, 3, 7, 9, 5, 2)


utils.datetime = Clock

TOKENS = {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>", "pad_token": "<|pad|>"}

TEMPLATES = {
    # As the instruct models of the OLMo 2 family are spoken to.
    "turns": """{{ bos_token }}{% for message in messages %}{% if message['role'] == 'system' %}{{ '<|system|>\\n' + message['content'] + '\\n' }}\
{% elif message['role'] == 'user' %}{{ '<|user|>\\n' + message['content'] + '\\n' }}\
{% elif message['role'] == 'assistant' %}{% if not loop.last %}{{ '<|assistant|>\\n' + message['content'] + eos_token + '\\n' }}\
{% else %}{{ '<|assistant|>\\n' + message['content'] + eos_token }}{% endif %}{% endif %}\
{% if loop.last and add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}{% endfor %}""",
    # One block per turn, with tags on lines of their own.
    "blocks": """{#- the first message may be the system's -#}
{%- if messages and messages[0].role == 'system' %}
    {%- set system = messages[0].content | trim %}
    {%- set turns = messages[1:] %}
{%- else %}
    {%- set system = 'Today is ' ~ strftime_now('%d %b %Y') ~ '.' %}
    {%- set turns = messages %}
{%- endif %}
<|im_start|>system
{{ system }}<|im_end|>
{% for turn in turns %}
<|im_start|>{{ turn.role }}
{% generation %}
{{ turn.content }}<|im_end|>
{% endgeneration %}
{% endfor %}
{% if add_generation_prompt %}
<|im_start|>assistant
{% endif %}
""",
    # Refuses what does not alternate.
    "strict": """{%- set ns = namespace(last='assistant', n=0) -%}
{%- for m in messages -%}
  {%- if m.role not in ('system', 'user', 'assistant') -%}
    {{- raise_exception('Role "' ~ m.role ~ '" is unknown: turn ' ~ loop.index) -}}
  {%- endif -%}
  {%- if m.role == 'system' -%}{%- continue -%}{%- endif -%}
  {%- if m.role == ns.last -%}
    {{- raise_exception('Turns must alternate') -}}
  {%- endif -%}
  {%- set ns.last = m.role -%}
  {%- set ns.n = ns.n + 1 -%}
  {{- '[' ~ ns.n ~ '] ' ~ m.content -}}
{%- endfor -%}
{{- ' ->' if add_generation_prompt and ns.last == 'user' -}}
""",
    # Cuts what the assistant thought, and takes content as a text or as parts.
    "thinks": """{%- macro text(content) -%}
  {%- if content is string -%}{{ content }}
  {%- elif content is iterable and content is not mapping -%}
    {%- for part in content if part.type == 'text' -%}{{ part.text }}{%- endfor -%}
  {%- elif content is none -%}
  {%- else -%}{{ raise_exception('content is no text') }}
  {%- endif -%}
{%- endmacro -%}
{%- for m in messages | selectattr('role', 'defined') -%}
  {%- set said = text(m.content) -%}
  {%- if m.role == 'assistant' and '</think>' in said -%}
    {%- set said = said.split('</think>')[-1].lstrip('\\n') -%}
  {%- endif -%}
  {{- '<' ~ m.role | upper ~ '>' ~ said ~ '\\n' -}}
{%- endfor -%}
{%- set roles = messages | map(attribute='role') | list -%}
{{- roles | join(',') ~ ';' ~ roles | length -}}
""",
    # Lists tools, and the calls of them.
    "tools": """{%- if tools %}
# Tools
{% for tool in tools %}
{{ tool | tojson }}
{{ tool.function.parameters | tojson(indent=2) }}
{% for name, p in tool.function.parameters.properties | dictsort %}
- {{ name }}: {{ p.type }}{% if p.enum is defined %} of {{ p.enum | join('|') }}{% endif %}{{ ' (required)' if name in tool.function.parameters.get('required', []) }}
{% endfor %}
{% endfor %}
{% endif %}
{%- for m in messages %}
{{ m.role }}: {{ m.content if m.content is defined and m.content is not none else '' }}
{% if m.tool_calls is defined %}
{% for c in m.tool_calls %}
{%- set f = c.function %}
<call>{"name": "{{ f.name }}", "arguments": {{ f.arguments | tojson if f.arguments is not string else f.arguments }}}</call>
{% endfor %}
{% endif %}
{% endfor %}
""",
}


def user(t):
    return {"role": "user", "content": t}


def assistant(t):
    return {"role": "assistant", "content": t}


def system(t):
    return {"role": "system", "content": t}


CONVERSATIONS = {
    "one": [user("Hello, how are you?")],
    "system": [system("You are helpful."), user("Hi")],
    "turns": [system("Be terse."), user("a"), assistant("b"), user("c"), assistant("d"), user("e")],
    "ends with the assistant": [user("a"), assistant("It is b.")],
    "empty": [user("")],
    "nothing": [],
    "unicode": [system("Ты помощник 🙂"), user("¿Qué tal? 河水 ß \u00a0\u2003x\u3000"), assistant("naïve — “quoted”\u200b"), user("É")],
    "whitespace": [system("\n  sys  \n"), user("\n\n lead and trail \t\n"), assistant("  a\r\n b  \n"), user("   ")],
    "control": [user("\x1c a \x85 b \x1f\x00"), assistant("x\x0b\x0c"), user("q\u2028")],
    "tags": [user("{{ 1 }} {% if %} <b>&amp;\"'</b> \\n"), assistant("<think>\nhm\n</think>\n\nyes </think> x"), user("next")],
    "out of turn": [user("a"), user("b")],
    "unknown role": [{"role": "critic", "content": "x"}, user("b")],
    "no role": [{"content": "x"}],
    "no content": [user("x"), {"role": "assistant"}],
    "null content": [user("x"), {"role": "assistant", "content": None}],
    "parts": [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image"}, {"type": "text", "text": "b\n"}]}],
    "tool call": [
        user("Weather?"),
        {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": {"name": "weather", "arguments": {"city": "Zürich", "days": [1, 2], "x": None, "y": True, "z": 1.5}}}]},
        {"role": "tool", "content": '{"t": 20}'},
    ],
}

SHOWN = [{"type": "function", "function": {"name": "weather", "description": 'The "weather" <now>', "parameters": {
    "type": "object", "properties": {"unit": {"type": "string", "enum": ["c", "f"]}, "city": {"type": "string"}, "days": {"type": "array", "items": {"type": "integer"}, "default": []}}, "required": ["city"]}}}]

VARIABLES = {
    "d": {"b": 1, "A": [1, 2, {"x": None}], "c": "x y", "items": "I"}, "e": {}, "l": [3, 1, 2, 1], "ls": ["b", "A", "c"],
    "n": [{"a": 1, "b": {"c": "z"}}, {"a": 2}, {}], "s": "  Hello World hello  ", "u": "é ß\u00a0", "z": "",
    "i": 7, "neg": -3, "f": 2.5, "big": 9007199254740993, "t": True, "no": None,
}

# Every line is a template that must render as with transformers, or be refused as there.
CONSTRUCTS = r"""
{{ 1 if 0 }}|{{ 'a' 'b' }}
{{ 1 + 2 ~ 3 }}|{{ 2 * 3 ~ 'x' }}|{{ 'x' ~ 1 + 1 if false else 3 }}
{{ not 1 == 2 }}|{{ 1 < 2 < 3 }}|{{ 1 < 3 < 2 }}|{{ 1 in [1] == true }}
{{ -7 // 2 }}|{{ -7 % 3 }}|{{ 7 // -2 }}|{{ 7 % -3 }}|{{ 7 / 2 }}|{{ 6/2 }}
{{ "a\tb\\n\x41\u00e9\d" }}
{{ 'a' if true else 'b' if false else 'c' }}
{% set x = 1 %}{% for i in [1,2] %}{% set x = x + i %}{{ x }}{% endfor %}{{ x }}
{% set ns = namespace(x=1) %}{% for i in [1,2] %}{% set ns.x = ns.x + i %}{% endfor %}{{ ns.x }}|{{ ns.y }}|{{ ns['x'] }}
{% if true %}{% set y = 2 %}{% endif %}{{ y }}
{% for i in [1] %}{% if true %}{% set q = 2 %}{% endif %}{{ q }}{% endfor %}{{ q }}
{% macro m(a, b=2, c=a) %}{{ a }}{{ b }}{{ c }}{% endmacro %}{{ m(1) }}|{{ m() }}|{{ m(1, c=5) }}|{{ m(b=1,a=2) }}
{% macro m(a) %}{{ a }}{% endmacro %}{{ m(1,2) }}
{% macro m(a) %}{{ a }}{% endmacro %}{{ m(z=2) }}
{% macro m() %}{{ v }}{% endmacro %}{{ m() }}{% set v = 3 %}{{ m() }}
{% macro m() %}{% set v = 9 %}{{ v }}{% endmacro %}{% set v = 3 %}{{ m() }}{{ v }}
{% macro m(x) %}{% if x > 0 %}{{ x }}{{ m(x-1) }}{% endif %}{% endmacro %}{{ m(5) }}
{% macro m(x) %} a {% endmacro %}[{{ m(1)|trim }}]{{ m(1) is string }}
{% for i in [1,2,3] if i != 2 %}{{ i }}{{ loop.index }}{{ loop.length }}{% endfor %}
{% for i in [1,2,3] %}{% if i == 2 %}{% continue %}{% endif %}{{ i }}{% if i == 3 %}{% break %}{% endif %}x{% endfor %}
{% for i in [] %}{% else %}E{% endfor %}{% for i in [1] %}{% break %}{% else %}E{% endfor %}
{% for i in [1,2] %}{% for j in [1,2] %}{{ loop.index }}{% endfor %}{{ loop.index }}{% endfor %}
{% for i in [1,2,3] %}{{ loop.previtem }}-{{ loop.nextitem }};{% endfor %}
{% set x %} a {{ 1 }} {% endset %}[{{ x }}]
{% set x %}{% set y = 1 %}{% endset %}{{ y }}
{% generation %}{% set y = 1 %}a{% endgeneration %}{{ y }}
{% for i in [1] %}{% generation %}{{ i }}{{ loop.index }}{% endgeneration %}{% endfor %}
{% set x = [1,2] %}{{ x }}{{ x + [3] }}{{ (1,2) + (3,) }}{{ [1] + (2,) }}
{{ {'a':1,'b':2,'a':3} }}
{{ [1,2,] }}{{ (1,) }}{{ () }}{{ {'a':1,} }}
{{ 'a' in {'a':1} }}{{ 1 in (1,2) }}{{ 'x' not in 'abc' }}
{{ true == 1 }}{{ 1 == 1.0 }}{{ none == false }}{{ 'a' == none }}{{ nope == none }}{{ nope == nope2 }}
{{ nope.x }}
{{ nope is defined and nope.x }}{{ nope or 'd' }}{{ nope ~ 'x' }}
{{ messages[0].content.strip() }}{{ messages[-1]['role'] }}{{ messages[9] }}{{ messages[9].x }}
{{ strftime_now('%d %b %Y %H:%M:%S %A %a %B %m %y %j %I %p %%') }}
{{ raise_exception('oh ' ~ 'no') }}
{{ raise_exception(1) }}
{{ range(5)[1:3]|list }}{{ range(1,10,3)|list }}{{ range(5,0,-2)|list }}{{ range(0) | length }}
{{ 'abc'[1] }}{{ 'aéb'[1] }}{{ 'aéb'|length }}{{ 'abc'[::-1] }}
{{ 'a'|upper|lower ~ 'B' }}{{ ('a' ~ 'b')|upper }}
{{ 'x' is string and 1 is number }}{{ 1 is not string }}{{ not 1 is string }}
{{ 'x' is defined is string }}
{{ x is defined if y }}
{{ [1,2] is iterable if true else 3 }}
{% set messages = messages[1:] %}{{ messages|length }}
{% set tools = 1 %}{{ tools }}
{% for m in messages %}{{ tools }}{% set tools = 2 %}{{ tools }}{% endfor %}{{ tools }}
{% if bos_token is defined %}{% set bos_token = 'q' %}{% endif %}{{ bos_token }}
{% if false %}{% set bos_token = 'q' %}{% endif %}{{ bos_token }}
{% if false %}{% set bos_token = 'q' %}{% else %}{% set bos_token = 'r' %}{% endif %}{{ bos_token }}
{% for i in [1,2] %}{{ zz }}{% set zz = i %}{{ zz }}{% endfor %}
{% for loop in [1] %}{{ loop }}{% endfor %}
{{ (1 if true) }}{{ (nope) }}
{{ messages | map(attribute='content') | map('trim') | join('|') }}
{{ (messages | selectattr('role', 'equalto', 'user') | first).content }}
{{ (messages | selectattr('role', 'in', ['user','x']) | list | length) }}
{{ messages | selectattr('role', 'user') | list }}
{% if messages | selectattr('role','equalto','zzz') %}T{% else %}F{% endif %}
{{ 1 }}{#- c -#} {{ 2 }} {#+ c +#} {{ 3 }} {# c
 #}
x {{ 4 }}
  {% if true %}
  a
    {%- if true -%}
  b
  {%- endif %}
  {% endif %}
end
{%+ if true %} a {%+ endif +%}
b
   {{- 'x' -}}   
 y
   {# c #}   {% if true %}q{% endif %}  
   {# c #}
{% if true %}   {% endif %}
  {% if true %}  a{% endif %}
{{ 'a' }}
{{ 'b' }}
{%- set x = 1 -%}  {{- x -}}  z  
{{'}}'}}{{ {'a':{'b':1}}.a.b}}{{ {'a':{}}}}
{ {{ 1 }} } {% if 1 %}{{%endif%}{{'{'}}
a{
{%
if true
%}x{%
endif
%}
{{ 08 }}
{{ .5 }}
{{ a.0 }}{{ l.0 }}{{ l.0.1 }}
{% for (a, b) in [[1,2]] %}{{ a }}{{ b }}{% endfor %}
{% for a, in [[1]] %}{{ a }}{% endfor %}
{% call m() %}a{% endcall %}
{% include 'x' %}
{% do 1 %}
{% else %}
{% if 1 %}
{% endif %}
{% for x in [1] %}{% break %}
{% break %}
{% macro m() %}{% break %}{% endmacro %}
{{ 1
{# 
{{ 'a
{{ ] }}
{{ x['__class__'] }}
{{ ''['__class__'] is defined }}
{{ messages.__len__() }}
{{ l.append(1) }}
{{ true.x }}{{ none.x }}{{ 1.x }}
{{ none['x'] }}{{ none[0] }}{{ 5[0] }}
{{ none.x.y }}
{{ 'x' | default }}{{ nope | default }}
{{ nope | default(nope2) }}
{{ [nope] | length }}
{{ nope|tojson }}
{{ '' or none }}{{ 0 and 1 }}{{ [] or {} }}
{{ "a" "b" ~ 'c' }}
{{ 'a'.upper is defined }}
{{ (1, [2, {'a': (3,)}], none, true, 1.5, 'x') }}
{{ [1, 'it"s', "it's", 'b\'"', 'a\\b', '\n\t\r\x01\x7f'] }}
{{ 'é\x7f\x01\u2028"\\/'|tojson }}
{{ '🙂é\x7f'|tojson(ensure_ascii=true) }}
{{ 9223372036854775807 }}{{ -9223372036854775807 - 1 }}
{{ 99999 * 99999 }}
{{ true + true }}{{ true * 3 }}{{ -true }}
{{ 'a' < 'b' }}{{ 'a' < 1 }}
{{ 1 < none }}
{{ d | dictsort }}
{{ d | dictsort(false, 'value') }}
{{ d | tojson }}{{ d }}
{{ e | tojson(indent=2) }}{{ [] | tojson(indent=2) }}{{ [[],{}] | tojson(indent=2) }}
{{ [3,1,2]|sort }}{{ ['b','A','c']|sort }}{{ ['b','A','c']|sort(case_sensitive=true) }}{{ ['b','A']|sort(false,true) }}
{{ 'a\nb'|indent(4, first=true) }}
{{ 'a\n\nb\n'|indent(2) }}|{{ 'a\n\nb\n'|indent(2,blank=true) }}|{{ ''|indent }}|{{ ''|indent(first=true) }}
{{ ' a '|trim }}{{ none|trim }}{{ 5|trim }}
{{ s.split()|join('-') }}{{ s.split('o', 1) }}{{ 'a,b'.split(',', maxsplit=1) }}{{ 'a'.split(sep='a') }}
{{ 'a<think>b</think>c'.split('</think>')[-1].lstrip('\n') }}
{{ '\x1ca\x85\u00a0b\u3000'.strip() }}|{{ '\u200bx'|trim }}
{% set ns = namespace(l=[]) %}{% for i in [1,2] %}{% set ns.l = ns.l + [i] %}{% endfor %}{{ ns.l }}
{% set ns.x = 1 %}
{% set d.x = 1 %}
{% for k, v in d.items() %}{{ k }}:{{ v }};{% endfor %}
{% for k in d %}{{ k }}{% endfor %}{% for c in 'aé' %}[{{ c }}]{% endfor %}
{% for k, v in d|dictsort %}{{ k }}{% endfor %}
{{ d.keys() | list }}{{ d.values() | list }}{{ 'b' in d.keys() }}{{ d.items() | length }}
{{ d.get('b') }}{{ d.get('q') }}{{ d.get('q', 1) }}{{ d.get() }}
{{ loop }}
{{ loop.index }}
{% macro a() %}{{ b() }}{% endmacro %}{% macro b() %}x{% endmacro %}{{ a() }}
{% if 1 %}{% macro c() %}y{% endmacro %}{% endif %}{{ c() }}
{% macro m(a=[]) %}{{ a }}{% endmacro %}{{ m() }}{{ m([1]) }}{{ m(none) }}{{ m(nope) }}
{% macro m(messages) %}{{ messages }}{% endmacro %}{{ m(3) }}
{{ [1,2,3][1] }}{{ {'a':[1,2]}.a[1] }}{{ {'a':{'b':'c'}}['a'].b }}
{{ ('a','b')[0] }}{{ ('a' ~ 'b').upper() }}{{ 'a'.upper().lower() }}
{{ [[1,2],[3]] | map('first') | list }}
{{ [1,2,3] | map('string') | join }}{{ ['a'] | map('replace','a','b') | join }}
{{ x|nofilter }}
{{ x is notest }}
{{ 3 is odd }}{{ 3 is even }}{{ 'a' is odd }}
{{ true is true }}{{ 1 is true }}{{ false is false }}{{ 0 is false }}{{ none is none }}{{ true is integer }}{{ true is number }}{{ 1.0 is float }}{{ true is boolean }}
{{ (1,2) is sequence }}{{ range(2) is sequence }}{{ d is sequence }}{{ d is iterable }}{{ 5 is iterable }}{{ none is sequence }}{{ nope is sequence }}{{ nope is iterable }}
{{ "\N{DASH}" }}
{{ "a\
b" }}
b' }}
{{ -5|string ~ 'x' }}{{ (-5)|string }}{{ +5 }}
{{ 1 -%}  x  {%- if true %} y{% endif %}
{{ (d.items()|list)[0][0] }}{{ (d.items())[0] }}
{{ messages|tojson(indent=4) }}
{{ messages[0]|tojson|safe }}
{{ ['a'|safe]|join }}
{{ 'x' if messages[0].content is string else messages[0].content|map(attribute='text')|join }}
{{ not nope }}{{ not [] }}{{ not 'a' or true }}
{{ 1 if nope else 2 }}{{ 1 if 'a' in nope else 2 }}
{{ 'a' in none }}
{{ 1 in 'abc' }}
{{ [1] in [[1]] }}{{ {} in [{}] }}
{{ [] in {} }}
{{ a.b.c is defined }}
{{ d.q.c is defined }}
{{ d.q is defined }}
{{ (d.q).x }}
{{ d['q']['x'] is defined }}
{{ m.items is defined }}
{{ l|first }}{{ l|last }}{{ []|first }}{{ []|last }}{{ 'abc'|first }}{{ 'abc'|last }}{{ d|first }}{{ d|last }}
{{ [1,2]|reverse|list }}{{ (1,2)|list }}{{ d|list }}
{{ -0.0 }}{{ 0.0001 }}{{ 0.00001 }}{{ 123456789012345680.0 }}{{ 1.0|tojson }}{{ 3.14 }}
{{ 0.1 + 0.2 }}{{ 1/3 }}{{ 7.0 * 2 }}
{{ '12'|int }}{{ '-3'|int }}{{ 3.9|int }}{{ -3.9|int }}{{ none|int }}{{ none|int(4) }}{{ true|int }}
{{ 3|float }}
{{ 'abc'|list }}{{ 'aéc'|reverse }}{{ [1,2]|reverse|list }}
{{ ('<'|safe) ~ '<' }}
{{ 'a' * 3 }}{{ 'a' * -1 }}
{{ -1|int }}|{{ - 1 }}|{{ --1 }}|{{ 3-1 }}|{{ 3 -1 }}
{{ messages | selectattr('role', 'equalto', 'assistant') | first }}
{% for i in [1] %}{% continue %}{% else %}E{% endfor %}{% for i in [1,2] %}{% if i == 2 %}{% break %}{% endif %}{% else %}E{% endfor %}
"""

# Each of these renders with transformers, and is refused here.
UNSUPPORTED = r"""
{{ -1|abs }}|{{ - 1 }}|{{ --1 }}|{{ 3-1 }}|{{ 3 -1 }}
{{ 2 ** 3 }}
{% for i in [1,2,3] %}{{ loop.previtem is defined }}{{ loop.cycle('a','b') }}{% endfor %}
{{ {1:2} }}
{{ messages[1].items }}{{ messages[1]['items'] }}
{{ strftime_now('%-d') }}
{{ 5 is divisibleby 5 }}
{% for m in messages %}{{ tools }}{% endfor %}{% set tools = 2 %}{{ tools }}
{% macro m() %}{{ bos_token }}{% endmacro %}{{ m() }}{% set bos_token = 'q' %}{{ m() }}
{% set loop = 1 %}{{ loop }}
{% set bos_token %}{{ bos_token }}{% endset %}{{ bos_token }}
{{ "%s" % 1 }}
{{ 'a' * 3 }}{{ 3 * 'a' }}{{ [1] * 2 }}
{{ d.b.real }}
{{ 's'.format(1) }}
{{ messages | selectattr('role', 'equalto', 'user') | first }}
{% set g = messages | map(attribute='role') %}{{ g | first }}{{ g | list }}
{{ 1_000 }}
{{ 0x1f }}
{{ 1.5 }}{{ 1e3 }}{{ 1.e3 }}
{{ l[1,2] }}
{{ 1, 2 }}
{% set a, b = 1, 2 %}{{ a }}
{% for a in 1, 2 %}{{ a }}{% endfor %}
{% raw %}{{ 1 }}{% endraw %}
{% filter upper %}a{% endfilter %}
{% with a = 1 %}{{ a }}{% endwith %}
{{ x.__class__ }}
{{ l.append is defined }}
{{ lipsum() }}
{{ cycler('a') }}
{{ dict(a=1) }}
{{ self }}
{{ caller }}
{{ 'a'.upper }}
{{ range }}
{{ namespace }}
{{ 1e16 }}{{ 1e15 }}{{ 123456789012345680.0 }}{{ 0.0001 }}{{ 0.00001 }}{{ 1.0 }}{{ 3.14 }}{{ -0.0 }}{{ 1.0|tojson }}{{ 1e22 }}{{1e100}}
{{ 0.1 + 0.2 }}{{ 1/3 }}{{ 7.0 // 2 }}{{ 7.5 % 2 }}
{{ 9223372036854775807 + 1 }}
{{ 9223372036854775808 }}
{{ 9999999999 * 9999999999 }}
{{ [1] < [2] }}
{{ 'aXbX'|replace('X','-',1) }}
{{ '12'|int }}{{ ' 12 '|int }}{{ '-3'|int }}{{ '1_0'|int }}{{ 'x'|int }}{{ 3.9|int }}{{ -3.9|int }}{{ none|int }}{{ '3.7'|int }}{{ true|int }}
{{ '1f'|int(base=16) }}
{{ '2.5'|float }}{{ 3|float }}
{{ 'aé'|upper }}
{{ 'ﬁ'|lower }}
{% set ns = namespace(c=0) %}{% for i in [1,2,3] if ns.c < 2 %}{% set ns.c = ns.c + 1 %}{{ i }}{% endfor %}
{{ ns is mapping }}{{ namespace(a=1) }}
{{ namespace({'a':1}).a }}
{{ d.items() }}
{{ [{'a':1},{'a':2}] | sum(attribute='a') }}
{{ [1,2,2] | unique | list }}
{{ 'a b'|title }}
{% if false %}{{ x|nofilter }}{% endif %}ok
{{ 1 is sameas 1 }}
{{ "\101" }}
{{ ('<'|safe) ~ '<' }}{{ ('<'|safe) + '<' }}
{{ ('a'|safe)|upper }}
{{ 'abc'|list }}{{ 'abc'|reverse }}{{ [1,2]|reverse }}
"""

VALUES = ["messages", "d", "e", "l", "ls", "n", "s", "u", "z", "i", "neg", "f", "t", "no", "nope", "[]", "{}", "(1,'a')", "range(3)",
    "n|selectattr('a')", "d.items()", "namespace(a=1)", "'x'|safe", "1.0", "d.get", "'a,b,,c'", "[1,'a\\'b',\"q\"]", "'a\\nb\\n\\nc'"]
AFTER = ["|length", "|first", "|last", "|list", "|string", "|trim", "|upper", "|default('D',true)", "|tojson", "|tojson(indent=2)", "|join('-')", "|reverse|list",
    "|sort", "|dictsort", "|items|list", "|int", "|indent(2,true)", "|replace('l','L')", "|map('upper')|list", "|map(attribute='a')|list",
    "|selectattr('a','equalto',1)|list", "|select|list", "|reject('none')|list", " is defined", " is none", " is integer", " is number", " is string",
    " is mapping", " is iterable", " is sequence", " is equalto 1", " in 'abc'", ".a", ".items", ".get('b','x')", ".items()|list", "['items']", "[0]", "[-1]", "[1:]",
    "[::-1]", "[3:1:-1]", ".strip()", ".split('l')", ".startswith(('a','  '))", ".replace('l','L',1)", ".append(1)", ".foo()", " + l", " + 1", " ~ 1", " == 7", " < 3", " * 2", " % 2"]


def soup(r):
    """A template of tags with every kind of whitespace control, and of whitespace."""
    begins = ["{% if true %}", "{%- if true %}", "{% if true -%}", "{%- if true -%}", "{%+ if true %}", "{% if true +%}"]
    ends = ["{% endif %}", "{%- endif %}", "{% endif -%}", "{%+ endif +%}"]
    rest = ["{{ 'v' }}", "{{- 'v' }}", "{{ 'v' -}}", "{# c #}", "{#- c #}", "{# c -#}", "{#+ c +#}", " ", "  ", "\n", "\n\n", "\t", "x", "y ", "\r\n", "\u00a0", "\x1c", "{", "}", "%"]
    out, open_tags = "", 0
    for _ in range(r.randint(3, 14)):
        k = r.random()
        if k < 0.18:
            out, open_tags = out + r.choice(begins), open_tags + 1
        elif k < 0.36 and open_tags:
            out, open_tags = out + r.choice(ends), open_tags - 1
        else:
            out += r.choice(rest)
    return out + "".join(r.choice(ends) for _ in range(open_tags))


def render(template, messages, tools=None, prompt=False, **variables):
    """What transformers gives, or {"error": ...}."""
    try:
        rendered = utils.render_jinja_template(
            conversations=[copy.deepcopy(messages)], tools=tools, chat_template=template, add_generation_prompt=prompt, **copy.deepcopy(variables)
        )
        return rendered[0][0]
    except jinja2.exceptions.TemplateError as e:
        return {"error": str(e) if type(e) is jinja2.exceptions.TemplateError else ""}
    except Exception:
        return {"error": ""}


r = random.Random(20)
grid = sorted({"{{ (%s)%s }}" % (v, a) for v in VALUES for a in AFTER})
one = [user(" Hi\nthere é "), {"role": "assistant", "content": "b", "items": 3}]
lines = lambda s: [line for line in s.split("\n") if line]
construct = lambda src: [src, render(src, one, prompt=True, **TOKENS, **VARIABLES)]
with open("cases.json", "w") as f:
    json.dump(
        {
            "templates": TEMPLATES, "tokens": TOKENS, "conversations": CONVERSATIONS, "tools": SHOWN,
            "rendered": [
                {"template": t, "conversation": c, "prompt": p, "tools": k, "want": render(TEMPLATES[t], CONVERSATIONS[c], SHOWN if k else None, p, **TOKENS)}
                for t in TEMPLATES for c in CONVERSATIONS for p in (False, True) for k in ([False, True] if t == "tools" else [False])
                if p or len(c) < 8
            ],
            "messages": one, "variables": VARIABLES,
            "constructs": [construct(src) for src in lines(CONSTRUCTS)],
            "unsupported": lines(UNSUPPORTED),
            "grid": [construct(src) for src in sorted(r.sample(grid, 300))],
            "soup": [construct(soup(r)) for _ in range(200)],
        },
        f, ensure_ascii=False, separators=(",", ":"),
    )
    f.write("\n")
