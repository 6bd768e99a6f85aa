"""The fix for each error in a device file, worded for spreadsheet users."""

# File types
SAVE_EXCEL = (
    'In Excel, choose "File > Save As" and the type "CSV UTF-8 (Comma delimited)".'
)
SAVE_LIBREOFFICE = (
    'In LibreOffice, choose "File > Save As", the type "Text CSV" and the character '
    'set "Unicode (UTF-8)".'
)
SAVE_NUMBERS = 'In Numbers, choose "File > Export To > CSV" and the encoding "UTF-8".'
EXPORT = "Export the devices as CSV (UTF-8) or NDJSON."
EXPORT_FROM_PAGE = (
    "Download the file, not the web page. If a website exported the page as a "
    "spreadsheet, open it in Excel and save it as CSV UTF-8."
)
EXPORT_FROM_DATABASE = (
    "Export a CSV file instead, for example in psql with: "
    "\\copy (SELECT ...) TO 'fleet.csv' CSV HEADER"
)
UNZIP = "Unzip it, and use the file inside."
UNPACK = "Unpack it, and use the file inside, or compress that file with gzip."
GUNZIP = "Decompress it with gunzip."
DAMAGED = "Copy, download or export the file again."
READ_AGAIN = "Check the disk or the network drive, and repeat the command."
EMPTY = "Check that the export has finished and that this is the intended file."

# Characters
ENCODING = (
    'Save the file as "CSV UTF-8" in Excel, or with the character set UTF-8 in other '
    "programs. If it has another encoding, name it, for example with "
    "--encoding windows-1252."
)
UTF16 = (
    'Save the file as "CSV UTF-8", or name the encoding with --encoding utf-16-le or '
    "--encoding utf-16-be."
)
BYTE_ORDER = (
    "Use --encoding utf-16-le or --encoding utf-16-be. If the file is UTF-8, omit "
    "--encoding."
)

# The header and the columns
HEADER = (
    'Name the column with the serial numbers "identifier" in the first row, or name '
    'the column with an option: --identifier-column "Serial Number".'
)
ONE_IDENTIFIER_COLUMN = "Keep one of these columns, and rename or delete the others."
JSON_CONTENT = (
    "If the file contains JSON, use the extension .ndjson or .json, or --format."
)
COLUMN_TYPE = (
    "The types are string, number, boolean and json. If the colon belongs to the name, "
    'write a type after it, as in "Ratio 1:2:string".'
)
COLUMN_NAME = (
    'A dot separates the names of nested members. For a dot within a name, write "\\.".'
)
SAME_COLUMN = "Rename or delete one of the two columns."
METADATA_COLUMN = (
    'Delete the column "metadata" or all other columns. To store a member with this '
    'name, call the column "metadata:string" or "metadata:json".'
)
NAMELESS = "Enter a name in the first row of the column, or delete the column."
CELL_COUNT = (
    "Add the missing cells or delete the surplus cells. A cell that contains the "
    "separator must be in double quotes."
)
OTHER_HEADER = "Join only files with the same columns in the same order."
QUOTES = (
    "Put the whole cell in double quotes, and write each double quote within it twice."
)
LONG_LINE = "Check for a missing line break or a missing double quote."
BACKSLASH = "Export the file as CSV, in which a backslash has no special meaning."

# Identifiers
IDENTIFIER = "Enter the serial number of the device."
TEXT_COLUMN = (
    "Format the column as text, enter or import the serial numbers again, and save the "
    "file."
)
FORMULA = (
    "Correct the formula, or replace it with its value. If the text is intended, use "
    "NDJSON."
)
APOSTROPHES = "Delete the apostrophes."
INVISIBLE = "Delete these characters, or enter the serial number again."
NUL = "Delete the character."
LONG_IDENTIFIER = "Check the column. A serial number has fewer characters."
REPEATED = "Keep one entry for each device."

# Cells and metadata
NUMBER = "Use digits and a decimal point, without a thousands separator: 1234.5"
DECIMAL_POINT = (
    "Use a decimal point instead of a comma, without a thousands separator: 3.70"
)
BOOLEAN = "Use TRUE or FALSE."
JSON_CELL = 'Use JSON with double quotes around names and texts: {"status": "active"}'
NULL = "Leave the cell empty. If the text is intended, use NDJSON."
NESTING = "Use fewer levels."
OBJECT = 'Use a JSON object: {"status": "active"}'
NO_METADATA = (
    "Fill in the metadata. To remove all existing metadata of such devices, confirm "
    "this with --allow-empty."
)
STORABLE = "Correct the value."
SIZE = (
    "Shorten the metadata, or raise MAX_BODY_BYTES of the service and --max-body-bytes."
)

# JSON
JSON_DEVICE = 'Use an object for each device: {"identifier": "SN-1", "metadata": {...}}'
JSON_LINE = "Write each device on one line, for example with: jq -c . FILE"
JSON_TEXT = 'Put the identifier in double quotes: "identifier": "71"'
JSON_BODY = (
    'Use {"devices": {"SN-1": {...}}}, an array of devices, or one device per line.'
)
JSON_SYNTAX = "Correct the file. To check JSON, use: jq . FILE"
NO_JSON = "If the file is a table, use the extension .csv or .tsv, or --format."
