"""Config maps, secrets, service accounts, roles and bindings."""

import base64

from cli.describing.writer import NONE, Object, Writer, head


def config_map(out: Writer, obj: Object) -> None:
    """Write a config map."""
    head(out, obj)
    out.write(0, "\nData\n====")
    for key, value in sorted((obj.get("data") or {}).items()):
        out.write(0, f"{key}:\n----")
        out.write(0, f"{value}\n")
    out.write(0, "\nBinaryData\n====")
    for key, value in sorted((obj.get("binaryData") or {}).items()):
        out.write(0, f"{key}: {len(base64.b64decode(value))} bytes")
    out.write(0, "")


def secret(out: Writer, obj: Object) -> None:
    """Write a secret; its values stay hidden."""
    head(out, obj)
    out.write(0, f"\nType:\t{obj.get('type', '')}")
    out.write(0, "\nData\n====")
    is_token = obj.get("type") == "kubernetes.io/service-account-token"
    for key, value in sorted((obj.get("data") or {}).items()):
        raw = base64.b64decode(value)
        if is_token and key == "token":
            out.write(0, f"{key}:\t{raw.decode(errors='replace')}")
        else:
            out.write(0, f"{key}:\t{len(raw)} bytes")


def service_account(out: Writer, obj: Object, tokens: list[str]) -> None:
    """Write a service account; `tokens` are the secrets that hold tokens of it."""
    head(out, obj)
    pull = [one["name"] for one in obj.get("imagePullSecrets") or ()]
    mounted = [one["name"] for one in obj.get("secrets") or ()]
    out.write(0, "Image pull secrets:\t" + ("\n\t".join(pull) or NONE))
    for title, names in (("Mountable secrets", mounted), ("Tokens", tokens)):
        if names:
            out.write(0, f"{title}:\t" + "\n\t".join(names))


def role(out: Writer, obj: Object) -> None:
    """Write a role or cluster role."""
    head(out, obj, namespaced=False)
    out.write(0, "PolicyRule:")
    out.write(1, "Resources\tNon-Resource URLs\tResource Names\tVerbs")
    out.write(1, "---------\t-----------------\t--------------\t-----")
    lines: dict[tuple[str, str, str], list[str]] = {}
    for rule in obj.get("rules") or ():
        names = rule.get("resourceNames") or ()
        for group in rule.get("apiGroups") or ():
            for resource in rule.get("resources") or ():
                for name in names or ("",):
                    lines.setdefault((_qualified(resource, group), "", name), []).extend(rule["verbs"])
        for url in rule.get("nonResourceURLs") or ():
            lines.setdefault(("", url, ""), []).extend(rule["verbs"])
    for (resource, url, name), verbs in sorted(lines.items(), key=_rank):
        shown = " ".join(dict.fromkeys(verbs))
        out.write(1, f"{resource}\t[{url}]\t[{name}]\t[{shown}]")


def _rank(item: tuple[tuple[str, str, str], list[str]]) -> str:
    """Return the text kubectl sorts by: verbs, group, resource, name, URL."""
    (resource, url, name), verbs = item
    head_, _, group = resource.partition("/")[0].partition(".")
    sub = resource.partition("/")[1] + resource.partition("/")[2]
    return f"Verbs:[{' '.join(dict.fromkeys(verbs))}],APIGroups:[{group}],Resources:[{head_}{sub}],Names:[{name}],URLs:[{url}]"


def _qualified(resource: str, group: str) -> str:
    head_, slash, sub = resource.partition("/")
    return (f"{head_}.{group}" if group else head_) + (f"/{sub}" if slash else "")


def binding(out: Writer, obj: Object) -> None:
    """Write a role binding or cluster role binding."""
    head(out, obj, namespaced=False)
    out.write(0, "Role:")
    out.write(1, f"Kind:\t{obj['roleRef']['kind']}")
    out.write(1, f"Name:\t{obj['roleRef']['name']}")
    out.write(0, "Subjects:")
    out.write(1, "Kind\tName\tNamespace")
    out.write(1, "----\t----\t---------")
    for one in obj.get("subjects") or ():
        out.write(1, f"{one['kind']}\t{one['name']}\t{one.get('namespace', '')}")
